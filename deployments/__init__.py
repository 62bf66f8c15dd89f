"""Ray Serve applications: HTTP routes, limits and the page."""
