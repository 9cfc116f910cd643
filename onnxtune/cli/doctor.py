"""`onnxtune doctor`: what works here, what does not, and how to get it."""

from __future__ import annotations

import click


@click.command("doctor", short_help="Say which providers really work here.")
def command() -> None:
    """Run a small convolution on every provider of this ONNX Runtime and say what works."""
    from onnxtune.bench.machine import machine
    from onnxtune.cache import Cache, cache_path
    from onnxtune.devices import cpu_features
    from onnxtune.library import ort
    from onnxtune.render.machine import cpu_line, gpu_line
    from onnxtune.runtime import REMEDIES, Target, resolve, trouble

    here, lines = machine(Target()), list[str]()
    for name, version in here["versions"].items():
        lines.append(f"{name:12} {version}")
    simd = next((f for f in ("avx512f", "avx2", "avx", "asimd") if f in cpu_features()), "unknown")
    lines.append(f"{'cpu':12} {cpu_line(here)}, widest vectors: {simd}")
    lines.append(f"{'system':12} {here['os']} {here['architecture']}")
    for provider in ort().get_available_providers():
        target = Target(provider)
        problem = trouble(target)
        if problem is None:
            lines.append(f"works        {provider} ({target.device})")
            if target.on_gpu:
                lines.append(f"{'':12} {gpu_line(machine(target))}")
        else:
            remedy = f"; {REMEDIES[provider]}" if provider in REMEDIES else ""
            lines.append(f"not usable   {provider}: {problem}{remedy}")
    lines.append(f"{'auto':12} {resolve('auto').provider}")
    lines.append(f"{'machine':12} {here['key']} (benchmarks of other machines are not compared)")
    found = Cache(cache_path()).info()
    lines.append(f"{'cache':12} {found['path']} ({found['entries']} measurements)")
    click.echo("\n".join(lines))  # at once: where a provider crashes, all is asked again without it
