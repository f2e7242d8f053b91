"""Persistent workspaces: a home directory, packages and settings that outlive a pod (docs/workspace.md).

Runs in the user's own image, where nothing of ours is installed: the standard library only, and nothing of the mount.
(`reach` starts the command `s3vfs mount` where a user names a bucket; nothing here imports it.)
"""
