"""Our icons: few, drawn on a grid of 20, stroked with the text's colour."""

from __future__ import annotations

from markupsafe import Markup

PATHS = {
    "bots": (
        '<rect x="3.5" y="6.5" width="13" height="9.5" rx="2.5"/><path d="M10 3v3.5M7.5 10.5v1.5M12.5 10.5v1.5"/>'
    ),
    "chat": '<path d="M3.5 5.5a2 2 0 0 1 2-2h9a2 2 0 0 1 2 2v6a2 2 0 0 1-2 2H9l-4 3v-3a1.6 1.6 0 0 1-1.5-1.6z"/>',
    "billing": '<rect x="2.5" y="4.5" width="15" height="11" rx="2"/><path d="M2.5 8.5h15M6 12.5h3"/>',
    "key": '<circle cx="7" cy="13" r="3.5"/><path d="m9.5 10.5 7-7M13.5 6.5l2.5 2.5"/>',
    "account": (
        '<circle cx="10" cy="7" r="3.2"/><path d="M3.8 16.5c.8-3 3.200-4.500 6.200-4.500s5.400 1.500 6.200 4.500"/>'
    ),
    "status": '<path d="M2.500 10.500h3.500l2-5.500 4 10 2-4.500h3.500"/>',
    "admin": (
        '<path d="M10 2.500 16 5v4.500c0 3.800-2.500 6.600-6 8-3.500-1.400-6-4.200-6-8V5z"/>'
        '<path d="m7.500 10 1.800 1.800 3.400-3.600"/>'
    ),
    "plus": '<path d="M10 4v12M4 10h12"/>',
    "send": '<path d="M10 16V4.500M5 9.500l5-5 5 5"/>',
    "mic": (
        '<rect x="7.500" y="2.500" width="5" height="9" rx="2.500"/>'
        '<path d="M4.500 9.500a5.500 5.500 0 0 0 11 0M10 15v2.500"/>'
    ),
    "speaker": '<path d="M3.500 8v4H6l4 3.500v-11L6 8zM13 7.500a3.500 3.500 0 0 1 0 5M15.200 5a7 7 0 0 1 0 10"/>',
    "stop": '<rect x="5" y="5" width="10" height="10" rx="2"/>',
    "play": '<path d="M6.500 4.200v11.600L16 10z"/>',
    "restart": '<path d="M4 10a6 6 0 1 1 1.800 4.300M4 14.500V11h3.500"/>',
    "logs": '<path d="M3.500 4.500h13M3.500 8.500h9M3.500 12.500h13M3.500 16h6"/>',
    "settings": (
        '<path d="M3 6.500h7M14 6.500h3M3 13.500h3M10 13.500h7"/><circle cx="12" cy="6.500" r="2"/>'
        '<circle cx="8" cy="13.500" r="2"/>'
    ),
    "usage": '<path d="M3.500 16.500h13M6 16.500V11M10 16.500v-11M14 16.500V8.500"/>',
    "copy": (
        '<rect x="7" y="7" width="9.500" height="9.500" rx="2"/>'
        '<path d="M13 7V5.500a2 2 0 0 0-2-2H5.500a2 2 0 0 0-2 2V11a2 2 0 0 0 2 2H7"/>'
    ),
    "check": '<path d="m4.500 10.500 3.500 3.500 7.500-8"/>',
    "close": '<path d="m5 5 10 10M15 5 5 15"/>',
    "menu": '<path d="M3 6h14M3 10h14M3 14h14"/>',
    "arrow": '<path d="M4 10h12M11 5l5 5-5 5"/>',
    "download": '<path d="M10 3.500v9M6 9l4 4 4-4M3.500 16.500h13"/>',
    "alert": '<path d="M10 3 17.500 16h-15zM10 8v3.500M10 13.800v.1"/>',
    "info": '<circle cx="10" cy="10" r="7"/><path d="M10 9.200v4M10 6.600v.1"/>',
    "moon": '<path d="M16 11.800A6.500 6.500 0 1 1 8.200 4a5.200 5.200 0 0 0 7.800 7.800z"/>',
    "trash": '<path d="M3.500 5.500h13M8 5.500v-2h4v2M5.500 5.500l.7 11h7.600l.7-11M8.500 8.500v5M11.500 8.500v5"/>',
    "node": (
        '<rect x="3" y="3.500" width="14" height="5.500" rx="1.500"/>'
        '<rect x="3" y="11" width="14" height="5.500" rx="1.500"/>'
        '<path d="M6 6.200v.1M6 13.700v.1M9 6.200h5M9 13.700h5"/>'
    ),
    "inbox": '<path d="M3 11.500 5.500 4h9l2.500 7.500v4.500H3zM3 11.500h4l1 2h4l1-2h4"/>',
    "loop": (
        '<path d="M4 8.500a6 6 0 0 1 11.500-1M16 11.500a6 6 0 0 1-11.500 1M16 4v3.500h-3.500M4 16v-3.500h3.500"/>'
    ),
    "people": (
        '<circle cx="7.500" cy="7" r="2.700"/>'
        '<path d="M2.500 15.500c.6-2.600 2.500-4 5-4s4.400 1.400 5 4M13 4.600a2.700 2.700 0 0 1 0 4.800'
        'M14.200 11.900c1.700.5 2.900 1.700 3.300 3.600"/>'
    ),
    "memory": '<path d="M5 3.500h10v13l-5-3-5 3z"/>',
    "receipt": (
        '<path d="M5 2.500h10v15l-2.500-1.700L10 17.500l-2.500-1.700L5 17.500zM7.500 6.500h5M7.500 9.500h5'
        'M7.500 12.500h2.500"/>'
    ),
    "out": (
        '<path d="M8 3.500H5a1.500 1.500 0 0 0-1.500 1.500v10A1.500 1.500 0 0 0 5 16.500h3'
        'M12.500 6.500 16 10l-3.500 3.500M16 10H7.500"/>'
    ),
}


def icon(name: str) -> Markup:
    """An SVG that readers skip: words beside it, or a label on its button, say what it means."""
    head = '<svg class="icon" viewBox="0 0 20 20" width="20" height="20" fill="none" stroke="currentColor" '
    style = 'stroke-width="1.6" stroke-linecap="round" stroke-linejoin="round" aria-hidden="true" focusable="false">'
    return Markup(head + style + PATHS[name] + "</svg>")  # noqa: S704 - our own drawings, nothing from outside
