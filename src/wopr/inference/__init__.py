"""Inference: the nodes that compute, the engines they run, and the gateway that meters what is asked of them."""
