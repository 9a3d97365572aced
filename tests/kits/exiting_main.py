"""`main.py` with a reader that ends the whole process, as a hole in a C library would, once it is connected to the camera
that EXIT_CAMERA names.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

EXIT_CODE = 70

if __name__ == "__main__":
    from main import main
    from services.rtsp_capture.connection.reader import ConnectionPlan, PacketConnection
    from services.rtsp_capture.connection.relayed_reader import RelayedConnector

    connect = RelayedConnector.__call__

    async def connect_or_exit(self: RelayedConnector, plan: ConnectionPlan) -> PacketConnection:
        connection = await connect(self, plan)
        if plan.name == os.environ["EXIT_CAMERA"]:
            os._exit(EXIT_CODE)
        return connection

    RelayedConnector.__call__ = connect_or_exit  # type: ignore[method-assign]
    sys.exit(main())
