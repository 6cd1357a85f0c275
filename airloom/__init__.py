"""airloom: which method reaches my target first on my fleet, and what does it cost?"""

__version__ = "0.1.0"
