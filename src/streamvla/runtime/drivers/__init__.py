"""What runs the streamer: in virtual time, on threads, and what both share."""
