"""Make new prompts of those that stand best."""
