"""What a training job takes, before anything is paid for: the real compiler's programs, without the hardware."""
