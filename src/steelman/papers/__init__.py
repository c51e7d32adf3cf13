"""Papers as data, and what makes their numbers again: `steelman reproduce`."""
