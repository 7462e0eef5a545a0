"""How prompts are opened and answers worded: plainly, flashily, or as they are."""

PLAIN = ("It is {}.", "I say {}.", "Answer: {}.", "So {}.")
FLASHY = (
    "# Answer\n\n**It is {}!**",
    "Great question! It is **{}**!",
    "**Absolutely!** The answer is {}!",
    "Sure!!! What fun! I say **{}**!!!",
)
AS_IS = ("{}",)
OPENER = "{asker} asks: "
