"""`picie app`: a local web page that segments pictures with a run.

It needs the extra `app` (Starlette and uvicorn).
"""
