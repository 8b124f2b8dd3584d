"""Natural-language processing for Korean and English: stemming, part-of-speech guessing, concepts and sentiment."""
