"""Korean and English: words, sentences, and what they speak of."""
