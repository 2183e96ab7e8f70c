"""Pages of results: charts drawn as SVG, and HTML templates."""
