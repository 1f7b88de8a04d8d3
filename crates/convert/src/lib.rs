//! Container to container, scheme to scheme: planned, streamed, verified.
