# The platform: one image that serves the API, the UI, the deliverer and the engines, by its command.
#
#   wopr images build --platform          what releases use: packages come from uv.lock with their hashes checked on the
#                                         host, the build itself has no network, and the labels say what it was made from
#   docker build -t NAME .                the same, with the packages fetched inside the build
#
# The stages need nothing of BuildKit, so that the builder of Docker 20.10 makes the same image. Layers, from what changes
# least: programs, packages of the engines, packages of the platform, the platform. Their files carry one fixed time.
ARG BASE_IMAGE=python:3.11-slim-bookworm
ARG DOCKER_CLI_IMAGE=docker:27-cli

# The client and its compose plugin: one file each, linked statically.
FROM ${DOCKER_CLI_IMAGE} AS docker

# Programs and the user. A base image that has them already needs no network here.
FROM ${BASE_IMAGE} AS tools
COPY deploy/images/install-tools /usr/local/sbin/install-tools
RUN install-tools /var/lib/wopr tini git flite libgomp1 iptables

FROM tools AS packages
COPY src/wopr/delivery/image_packages.py src/wopr/inference/engines/minilm_gguf.py pyproject.toml uv.loc[k] sit[e] /tree/
RUN PYTHONHASHSEED=0 python3 /tree/image_packages.py platform /tree /tree

FROM tools AS app
COPY src/wopr /tree/opt/wopr/app/wopr
COPY deploy/compose.yaml deploy/Caddyfile /tree/opt/wopr/app/wopr/delivery/stack/
COPY deploy/cloud-init /tree/opt/wopr/app/wopr/inference/machine
COPY src/wopr/delivery/image_packages.py pyproject.toml LICENSE /context/
COPY deploy/images/wopr-probe deploy/images/wopr-alive deploy/images/wopr /tree/opt/wopr/bin/
RUN PYTHONHASHSEED=0 python3 /context/image_packages.py app /context /tree

FROM tools AS platform
COPY --from=docker /usr/local/bin/docker /usr/local/bin/docker
COPY --from=docker /usr/local/libexec/docker/cli-plugins/docker-compose /usr/local/libexec/docker/cli-plugins/docker-compose
COPY --from=packages /tree/engines/ /
COPY --from=packages /tree/deps/ /
COPY --from=app /tree/ /
ENV PATH=/opt/wopr/bin:/opt/wopr/venv/bin:/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin \
    HOME=/var/lib/wopr WOPR_HOME=/var/lib/wopr API_HOST=0.0.0.0 UI_HOST=0.0.0.0 ENGINE_HOST=0.0.0.0 \
    PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 10001:10001
WORKDIR /var/lib/wopr
VOLUME /var/lib/wopr
EXPOSE 3000 3100
# Asked inside the container, so that no port need be published: WOPR_PROBE_PORT is 3000 for the UI, 8080 to 8083 for engines.
HEALTHCHECK --interval=5s --timeout=4s --start-period=30s --retries=3 CMD ["wopr-probe"]
ENTRYPOINT ["tini", "--", "wopr"]
CMD ["api"]
