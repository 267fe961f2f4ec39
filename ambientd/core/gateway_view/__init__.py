"""What the sessions of a gateway say about its agents: rows, statuses, and the view folded from them."""
