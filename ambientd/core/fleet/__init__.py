"""The control plane's decisions: values in, values out."""
