"""What the control plane needs from outside."""
