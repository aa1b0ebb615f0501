"""`picie app`: a page on this machine that segments pictures with a run; needs the extra `app` (Starlette and uvicorn)."""
