"""One model behind HTTP, in the wire formats that rerank clients already speak.

The only room that knows starlette, uvicorn and pydantic. Importing it loads none of them.
"""

from polyrank.server.settings import ServerSettings, read_settings

__all__ = ["ServerSettings", "read_settings"]
