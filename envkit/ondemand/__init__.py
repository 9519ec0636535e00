"""The image server: a process that gives the kernel the blocks of layers as they are asked for."""
