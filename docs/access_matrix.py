"""Writes the table of routes, scopes and grants into docs/security.md, from the code. `--check`: exits 1 when it differs.

python -m docs.access_matrix [--check]
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

from api.http.access.rules import Rule
from api.http.routing import declared_routes
from config import Settings
from main import create_app

PAGE = Path(__file__).resolve().parent / "security.md"
BEGIN, END = "<!-- matrix: python -m docs.access_matrix -->", "<!-- end of the matrix -->"
NO_CAMERA = "-"
# What a caller is answered who has the scope and not the camera. tests/integration/access runs every line of it.
ALIEN: dict[str, str] = {
    "take_burst": "403", "get_burst": "404", "trigger_event": "404", "list_events": "404", "submit_capture": "403",
    "get_request": "404", "list_requests": "absent", "cancel_request": "404", "upload_images": "403",
    "open_upload_session": "403", "get_upload_session": "404", "complete_upload_session": "404",
    "abort_upload_session": "204, nothing happens", "list_frames": "absent", "nearest_frame": "404", "get_frame": "404",
    "delete_frame": "204, nothing happens", "hold_frame": "404", "release_frame": "404", "get_frame_content": "404",
    "get_thumbnail": "404", "verify_frame": "404",
    "create_camera": "403", "list_cameras": "absent", "get_camera": "404", "update_camera": "403", "delete_camera": "403",
    "probe_camera": "403", "take_snapshot": "403", "read_events": "absent",
    "latest_picture": "404", "list_gaps": "404", "camera_losses": "404",
    "frames_histogram": "200, empty buckets",
    "create_pair": "403", "match_pairs": "403", "list_pairs": "absent", "get_pair": "404",
    "delete_pair": "404", "view_pair": "404",
}  # fmt: skip
WITHOUT_CAMERA = frozenset(
    {
        "probe_url", "discover_cameras", "create_api_key", "list_api_keys", "get_api_key", "revoke_api_key",
        "rotate_api_key", "me", "get_session", "open_session", "end_session", "protected_resource", "list_audit",
        "list_workers", "drain_worker", "create_ticket", "open_socket",
        "health", "health_ready", "health_live", "metrics", "openapi", "swagger", "redoc", "asset",
        "console", "console_root", "root",
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Line:
    """One operation."""

    method: str
    path: str
    operation: str
    rule: Rule
    alien: str

    @property
    def access(self) -> str:
        if self.rule.public:
            return "open"
        return ", ".join(f"`{scope}`" for scope in self.rule.scopes) or "any credential"


def lines() -> list[Line]:
    """Every operation of the application. Raises KeyError for one that says nothing of other cameras."""
    found = []
    for route in declared_routes(create_app(Settings(_env_file=None))):
        operation = route.operation_id or route.name
        alien = NO_CAMERA if operation in WITHOUT_CAMERA else ALIEN[operation]
        found += [Line(method, route.path, operation, route.rule, alien) for method in sorted(route.methods or ())]
    return sorted(found, key=lambda line: (line.path, line.method))


def table() -> str:
    head = "| Operation | Credential | A camera that is not granted |\n|---|---|---|\n"
    return head + "".join(f"| {line.method} {line.path} | {line.access} | {line.alien} |\n" for line in lines())


def page(text: str) -> str:
    """The page with today's table between its marks."""
    before, _, rest = text.partition(BEGIN)
    return f"{before}{BEGIN}\n{table()}{END}{rest.partition(END)[2]}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m docs.access_matrix", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 when the page differs")
    check = parser.parse_args().check
    text = PAGE.read_text(encoding="utf-8")
    wanted = page(text)
    if check and wanted != text:
        print("docs/security.md differs from the code: run `python -m docs.access_matrix`", file=sys.stderr)
        return 1
    if not check:
        PAGE.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
