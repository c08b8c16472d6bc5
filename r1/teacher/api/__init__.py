"""Parts of the HTTP teacher: concurrent requests, rate limits, the response format."""
