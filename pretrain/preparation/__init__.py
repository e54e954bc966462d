"""From videos and pictures in any format to the shards that training reads."""
