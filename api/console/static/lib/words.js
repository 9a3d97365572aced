// Codes in words: what happened, and what a person can do about it. Codes are the API's (docs/trouble.md).

const CAMERA = {
  unauthorized_camera: ['The camera refused the login.', 'Correct user and password in its URL; write @ / : # ? % in them as %40 %2F %3A %23 %3F %25.'],
  forbidden_camera: ['The camera accepts the login, but this user may not see the stream.', "Give the user the right to it in the camera's settings."],
  stream_not_found: ['The camera has no stream at this path.', "Look up the path in the camera's manual, or find the camera on the network: it tells its streams."],
  camera_busy: ['The camera serves no more viewers.', 'Close other viewers, or raise the limit in the camera.'],
  connection_refused: ['Nothing listens at this address and port.', 'Check the address and the port; is RTSP switched on in the camera?'],
  connect_timeout: ['The camera cannot be reached.', 'Is it powered, and is its network reachable from the service?'],
  read_timeout: ['The camera took the connection and sends nothing.', 'Restart the camera, and look for losses in its network.'],
  dns_failure: ["The camera's name cannot be resolved.", 'Check the name, or use the IP address.'],
  tls_error: ["The camera's certificate is not trusted.", 'Ask the administrator to add its authority (RTSP__TLS_CA_FILE), and use the name that the certificate is for.'],
  no_video: ['The camera sends no video.', 'Choose another path: this one may be sound or metadata only.'],
  unsupported_codec: ['The camera sends a kind of video that is not supported.', 'Set it to H.264, H.265 or Motion JPEG.'],
  redirect_refused: ['The camera redirects to another address, which the service never follows.', 'Put the final address into the URL.'],
  transport_refused: ['The camera does not send over this transport.', 'Change the transport from TCP to UDP, or back.'],
  address_not_allowed: ['This address is not allowed for cameras.', 'Ask the administrator to add its network (RTSP__ALLOWED_NETWORKS) or port (RTSP__ALLOWED_PORTS).'],
  stream_ended: ['The camera closed the connection.', 'It may be restarting. If this goes on: is the port RTSP, and are there too many viewers?'],
  decode_failed: ['Pictures came, and none was whole.', 'Use TCP instead of UDP, or the reader "native".'],
  timestamp_out_of_range: ['The stream was not open at that moment, or not kept that far back.', 'Keep the stream open, and ask sooner.'],
  lease_lost: ['The process that ran it ended, and another one took over.', 'Nothing is to be done; if it happens again, look at Workers.'],
  poisoned: ['Three processes in a row ended while they began it; it is not tried again.', "Show the administrator the service's log of that time."],
};

const OTHER = {
  no_answer: ['The service does not answer.', 'The page tries again by itself.'],
  unauthorized: ['The credential is wrong, expired or revoked.', 'Log in again.'],
  forbidden: ['Your key does not allow this.', 'Ask an administrator for a key with the scope or camera.'],
  csrf_failed: ['The session of this page is not the present one.', 'Load the page again.'],
  camera_exists: ['A camera of this id is registered already.', 'Choose another id.'],
  camera_in_use: ['Captures of this camera wait or run.', 'Cancel them first.'],
  camera_disabled: ['The camera is disabled.', 'Enable it first.'],
  camera_not_found: ['There is no such camera, or your key does not include it.', 'Go back to the cameras.'],
  frame_not_found: ['There is no such frame, or your key does not include it.', 'It may have been deleted.'],
  request_not_found: ['There is no such capture, or your key does not include it.', 'It may have been removed.'],
  pair_not_found: ['There is no such pair, or your key does not include it.', 'It may have been deleted.'],
  key_not_found: ['There is no such key.', 'It may have been removed.'],
  frame_in_pair: ['The frame belongs to a pair.', 'Delete the pair first.'],
  frame_on_hold: ['The frame is on hold.', 'Release the hold first.'],
  not_running: ['The capture does not run, or takes no triggers.', 'Only running captures around events take them.'],
  no_worker: ["No process captures at this camera's site, or it did not answer.", 'Look at Workers; start one for the site.'],
  no_frame: ['There is no frame near that moment.', 'Choose a moment at which the camera stored frames.'],
  rate_limited: ['Too many requests.', 'Wait a moment.'],
  too_many_pending: ['Too many captures wait.', 'Wait until some have ended.'],
  storage_unavailable: ['The object store cannot be used.', 'Look at Health.'],
  database_unavailable: ['The database cannot be used.', 'Look at Health; the page tries again.'],
  overloaded: ['The service is at its limit.', 'Try again in some seconds.'],
  shutting_down: ['This process is stopping.', 'Try again in some seconds.'],
  disk_full: ['The disk is full.', 'Tell the administrator.'],
  not_onvif: ['What answers there does not speak ONVIF.', 'Is ONVIF switched on in the camera (often with a user of its own)? Is the port right?'],
  invalid_request: ['Some fields are not right.', 'They are marked in the form.'],
  not_applicable: ['A field does not fit this kind of capture.', 'It is marked in the form.'],
  internal_error: ['The service made an error.', 'Try again; if it stays, give the administrator the trace id.'],
};

/** {what, todo} of a code. `instead`: what the service itself said, for codes that have no words here. */
export function wordsOf(code, instead = '') {
  const found = CAMERA[code] ?? OTHER[code];
  return found ? { what: found[0], todo: found[1] } : { what: instead || `The service answered ${code}.`, todo: '' };
}

export const DROPPED = {
  camera_down: 'the camera was away',
  no_picture: 'no picture came in time',
  decode_failed: 'the picture was damaged',
  queue_full: 'too many pictures at once',
  spool_full: 'store away, and no room to wait',
  spooled: 'waiting on disk, may still come',
  surplus: 'beyond the number asked for',
  lease_lost: 'the process ended',
  cancelled: 'cancelled',
  rejected: 'the file was refused',
};

export const STATUS = {
  pending: 'waiting', in_progress: 'running', completed: 'completed', failed: 'failed', cancelled: 'cancelled',
};

export const STREAM = {
  live: 'live', connecting: 'connecting', stalled: 'stalled', backing_off: 'trying again', closed: 'closed',
};

export const MODE = { single_frame: 'one picture', continuous: 'continuous', event_driven: 'around events' };
