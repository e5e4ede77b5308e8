"""Bodies of the REST API, version 1. The published OpenAPI document follows from them."""
