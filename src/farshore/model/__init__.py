"""The vocabulary of the product: ids, positions, machines, points, policies, states, errors. Pure."""
