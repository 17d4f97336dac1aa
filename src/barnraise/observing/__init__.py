"""What machines may ask of a running coordinator or node: `/healthz` and `/metrics`, over plain HTTP, where
the operator or the site's admin asked for it. Questions are answered; nothing is ever sent of itself."""
