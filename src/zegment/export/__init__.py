"""Models as ONNX graphs that run without PyTorch."""
