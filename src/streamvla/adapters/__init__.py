"""Other people's policies and robots behind our interfaces, and ours behind theirs."""
