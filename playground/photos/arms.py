"""The arms of the study for a shell: ``name|VARIABLE=value|...``, without what AttAnchor sets: it has no projector."""

from ccra_patch.studies import STUDIES

if __name__ == "__main__":
    for arm in STUDIES["photos"].arms.values():
        settings = (f"{name}={value}" for name, value in arm.changes.items() if "ATTANCHOR" not in name)
        print("|".join([arm.name, *settings]))
