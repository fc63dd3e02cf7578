"""The thinking reward: a Bradley-Terry model that scores reasoning, its training and its preference pairs."""
