"""What a run is worth: measures on held-out text, and the page that shows them."""
