"""Two-stage curation of preference pairs with humans and models, after the Skywork-Reward-V2 paper (arXiv 2507.01352)."""
