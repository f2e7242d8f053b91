# One image for everything: the command line, `s3vfs mount` in a container, and the CSI driver (csi/deploy, docs/kubernetes.md).
#
#     docker build -t s3vfs:0.1.0 .            buildah build -t s3vfs:0.1.0 .
#
# The base may be any Debian or Ubuntu with Python 3.11 or newer, its own (debian:12-slim) or one that the image brings
# along (python:3.13-slim-bookworm). Both stages start from it, so that the virtual environment of the first finds the
# same interpreter and the same libfuse3 in the second.
ARG BASE_IMAGE=debian:12-slim

# -- first stage: compilers, and a virtual environment that is copied as a whole ------------------------------------
FROM ${BASE_IMAGE} AS build

# pyfuse3 has no wheels: it is compiled here against libfuse3, and so is our own extension. All else comes as wheels.
RUN set -eu; \
    packages="gcc libc6-dev libfuse3-dev pkg-config"; \
    command -v python3 >/dev/null || packages="$packages python3-dev python3-venv"; \
    export DEBIAN_FRONTEND=noninteractive; \
    apt-get update -q; \
    apt-get install -q -y --no-install-recommends -o Dpkg::Use-Pty=0 $packages; \
    python3 -m venv /pip; \
    python3 -m venv --without-pip /opt/s3vfs

WORKDIR /source
COPY . .

# (pip takes a package whose extension could not be built for a success: the import makes sure.)
# botocore describes some 430 services; a volume needs S3, and those that credentials come from (SSO, STS, sign-in).
RUN set -eu; \
    /pip/bin/pip --python /opt/s3vfs/bin/python install --disable-pip-version-check --no-input --progress-bar off ".[csi]"; \
    cd /opt/s3vfs/lib/python3*/site-packages; \
    for service in botocore/data/*/; do \
        case "${service#botocore/data/}" in s3/ | sso/ | sso-oidc/ | sts/ | signin/) ;; *) rm -r "$service" ;; esac; \
    done; \
    find . -name '*.so' -exec strip --strip-unneeded {} +; \
    /opt/s3vfs/bin/python -c 'import s3vfs.fuse.native._interpose'; \
    find . -type d -name tests -prune -exec rm -r {} +

# The command as one file, without what needs compiling: `s3vfs workspace` in images where nothing of ours is installed
# (csi/deploy/examples/gpu-pod.yaml). It runs with any Python 3.8 or newer.
RUN set -eu; \
    mkdir /one-file /opt/s3vfs/share; \
    cp -r s3vfs s3vfs/__main__.py /one-file; \
    python3 -m zipapp /one-file --compress --python="/usr/bin/env python3" --output=/opt/s3vfs/share/s3vfs.pyz

# -- second stage: what runs ------------------------------------------------------------------------------------------
FROM ${BASE_IMAGE}

# tini is process 1: mounts are daemons, whose parent does not wait for them. ca-certificates: for servers with a
# certificate of the system's authorities (AWS_CA_BUNDLE=/etc/ssl/certs/ca-certificates.crt). util-linux has findmnt, umount.
RUN set -eu; \
    packages="ca-certificates fuse3 tini"; \
    command -v python3 >/dev/null || packages="$packages python3-minimal libpython3-stdlib"; \
    export DEBIAN_FRONTEND=noninteractive; \
    apt-get update -q; \
    apt-get install -q -y --no-install-recommends -o Dpkg::Use-Pty=0 $packages; \
    apt-get clean; \
    rm -rf /var/lib/apt/lists/* /var/cache/debconf/*-old /var/log/apt /var/log/dpkg.log

COPY --from=build /opt/s3vfs /opt/s3vfs

ENV PATH=/opt/s3vfs/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    PYTHONUNBUFFERED=1

# Unpublished work lives here: give it a volume on a local disk, or it goes with the container.
VOLUME /var/cache/s3vfs

# No USER: mounting needs root and CAP_SYS_ADMIN, and mounts for other containers a privileged one (docs/kubernetes.md).
# Commands that mount nothing (format, ls, status of a URL ...) run as any user: `docker run --user 1000 ...`.

# Healthy: every mount in this container answers. (Kubernetes ignores this; there the liveness probe asks the driver.)
HEALTHCHECK --interval=30s --timeout=20s --start-period=60s --retries=3 \
    CMD for mount in $(findmnt -rn -t fuse.s3vfs -o TARGET); do timeout 15 s3vfs status "$mount" >/dev/null || exit 1; done

ENTRYPOINT ["tini", "--", "s3vfs"]
CMD ["--help"]
