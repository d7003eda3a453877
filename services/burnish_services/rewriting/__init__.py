"""The rewriting service: new and better samples from old ones, validated before they leave."""
