"""Request, flow, response."""
