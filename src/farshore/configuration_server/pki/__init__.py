"""The product's own certificate authority."""
