"""One module per verb; each is loaded only when its verb is used."""
