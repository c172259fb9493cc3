# seats serve in a container: see docs/serve.md.
#
#   docker build --build-arg DEVICE=cpu -t seats .    (DEVICE=cuda is the default)
#   docker run -p 8000:8000 -e SEATS_API_KEY=secret seats
FROM python:3.12-slim

ARG DEVICE=cuda
ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1

WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY seats_cli seats_cli
# The usual wheels of torch bring CUDA's libraries along, several GB that a CPU has no use for.
RUN case "$DEVICE" in \
        cuda) ;; \
        cpu) pip install -c constraints.txt torch torchvision \
            --index-url https://download.pytorch.org/whl/cpu ;; \
        *) echo "DEVICE is cpu or cuda, not $DEVICE" >&2; exit 1 ;; \
    esac \
    && pip install -c constraints.txt '.[serve]' \
    && rm -rf /src/*

# No rights in the image, and one place to write to: checkpoints.
RUN useradd --create-home --uid 10001 seats && mkdir /models && chown seats /models
USER seats
WORKDIR /home/seats
ENV HF_HOME=/models
VOLUME /models
EXPOSE 8000
HEALTHCHECK --start-period=10m --interval=30s --timeout=10s \
    CMD ["python", "-c", "import urllib.request as web; web.urlopen('http://127.0.0.1:8000/health', timeout=5)"]

# Reachable from outside of the container, so a key is needed: SEATS_API_KEY.
ENTRYPOINT ["seats", "serve", "--host", "0.0.0.0", "--port", "8000"]
