"""HTTP teachers: concurrent requests, rate limit, replies."""
