"""The methods of making actions: expert, training sample and action reading, one file each."""
