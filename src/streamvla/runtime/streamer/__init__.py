"""The streamer: messages in and out, and the state machine."""
