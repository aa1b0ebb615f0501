"""The run's settings, and the machine and versions it was made with."""

from __future__ import annotations

from typing import Any

from picie.config import Config, from_dict
from picie.report.subject import Subject


def changed_options(config: Config) -> list[tuple[str, str, str]]:
    """(name, value, default) of each option that differs from its default."""
    values_of = config.model_dump(mode="json")
    # includes the section of the method's own options, if it has one
    defaults = from_dict({"method": config.method}).model_dump(mode="json")
    rows = []
    for section, values in values_of.items():
        pairs = values.items() if isinstance(values, dict) else [("", values)]
        for key, value in pairs:
            default = defaults[section][key] if key else defaults[section]
            if value != default:
                rows.append((f"{section}.{key}" if key else section, _text(value), _text(default)))
    return rows


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(_text(item) for item in value)
    if isinstance(value, dict):
        rest = ", ".join(f"{key}={_text(item)}" for key, item in value.items() if key != "name")
        return f"{value.get('name', '')}({rest})"
    return "not set" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def environment(subject: Subject) -> list[tuple[str, str]]:
    """(name, value) of the machine, versions and times that run.json records."""
    record, engine = subject.record, subject.record.get("engine", {})
    versions = ", ".join(f"{name} {version}" for name, version in record.get("versions", {}).items())
    memory = record.get("peak_memory_mb")
    rows = {
        "folder": str(subject.folder.absolute()),
        "status": record.get("status"),
        "started": record.get("started"),
        "device": ", ".join(f"{value}" if key == "device" else f"{key} {value}" for key, value in engine.items()),
        "peak memory": f"{memory / 1000:.1f} GB" if memory else None,
        "platform": record.get("platform"),
        "commit": record.get("git"),
        "versions": versions,
    }
    return [(name, str(value)) for name, value in rows.items() if value]
