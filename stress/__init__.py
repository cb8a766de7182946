"""The stress harness: shows on a real RocksDB what leaks do, and that saferocks stops them.

Each scenario is run three times, each time in a process of its own: `raw` is the bug as people
write it on bare rocksdict, `guarded` the same buggy code on saferocks, `scoped` the right code on
saferocks. A run is only believed if the raw leg is seen to leak.
"""
