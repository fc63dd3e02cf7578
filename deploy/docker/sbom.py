"""Print the bill of materials of the environment that runs this: CycloneDX JSON, from what is installed.

Python distributions of this interpreter, and Debian or Ubuntu packages where dpkg is. It carries neither a time nor a
random number: the same content gives the same bill.
"""

import json
import platform
import shutil
import subprocess
import sys
from importlib import metadata
from urllib.parse import quote


def python_packages() -> list[dict]:
    """Return a component a distribution."""
    components = {}
    for distribution in metadata.distributions():
        about = distribution.metadata
        name, version = about["Name"].lower().replace("_", "-"), distribution.version
        component = {"type": "library", "name": name, "version": version, "purl": f"pkg:pypi/{name}@{quote(version)}"}
        if expression := about["License-Expression"]:
            component["licenses"] = [{"expression": expression}]
        components.setdefault(name, component | {"bom-ref": component["purl"]})
    return [components[name] for name in sorted(components)]


def system_packages() -> list[dict]:
    """Return a component an installed package of the distribution; none where there is no dpkg."""
    if shutil.which("dpkg-query") is None:
        return []
    system = platform.freedesktop_os_release()
    command = ["dpkg-query", "-W", "-f", "${Package} ${Version} ${Architecture}\n"]
    components = []
    for line in subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines():
        name, version, architecture = line.split()
        purl = f"pkg:deb/{system['ID']}/{quote(name)}@{quote(version)}?arch={architecture}"
        purl += f"&distro={system['ID']}-{system['VERSION_ID']}"
        components.append({"type": "library", "name": name, "version": version, "purl": purl, "bom-ref": purl})
    return components


def bill() -> dict:
    """Return the whole document."""
    interpreter = {"type": "platform", "name": "python", "version": platform.python_version()}
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": {"type": "container", "name": "pgrpo-ray", "version": metadata.version("pgrpo-ray")}},
        "components": [interpreter, *python_packages(), *system_packages()],
    }


if __name__ == "__main__":
    json.dump(bill(), sys.stdout, indent=1)
