"""Sources, quarantine, tokenised store and the pipeline that feeds training."""
