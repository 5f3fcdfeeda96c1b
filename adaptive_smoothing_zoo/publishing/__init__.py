"""Recorded results, leaderboard entries, claims and model cards."""
