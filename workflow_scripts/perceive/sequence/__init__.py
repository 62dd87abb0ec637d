"""The sequence variables: a recurrent network over a person's latest reflections, up to the one in question.

Modules that need torch are imported where they are used.
"""
