"""A small app that uses every part of Flower's message API: least squares under any strategy."""
