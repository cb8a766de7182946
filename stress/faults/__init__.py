"""What happens to programs, staged on a real RocksDB: killed, forked, out of disk, corrupted, raced."""
