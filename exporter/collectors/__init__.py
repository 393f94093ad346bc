"""What each endpoint is asked, what is kept of its answer, what is exported and until when."""
