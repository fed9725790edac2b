// The sign-in page: hands the token to the server, which answers with a cookie that this script cannot read.

const WORDS = {
  en: {
    lead: "This server belongs to your clinic. Enter its access token: whoever runs the server has it.",
    label: "Access token",
    show: "Show what I type",
    enter: "Sign in",
    lasts: "You stay signed in on this device for 12 hours.",
    wrong: "This is not the access token of this server. Small letters and digits, with the dashes.",
    wait: (seconds) => `Too many wrong tokens came from this address. Try again in ${seconds} seconds.`,
    gone: "The server did not answer. Check that this device is in the clinic's network, then try again.",
    insecure: "This connection is not encrypted: everybody in this network can read the token and what you ask.",
  },
  fr: {
    lead: "Ce serveur appartient à votre centre de santé. Saisissez son jeton d'accès : la personne qui gère le serveur l'a.",
    label: "Jeton d'accès",
    show: "Afficher ce que je tape",
    enter: "Se connecter",
    lasts: "Vous restez connecté sur cet appareil pendant 12 heures.",
    wrong: "Ce n'est pas le jeton d'accès de ce serveur. Lettres minuscules et chiffres, avec les tirets.",
    wait: (seconds) => `Trop de jetons faux sont venus de cette adresse. Réessayez dans ${seconds} secondes.`,
    gone: "Le serveur n'a pas répondu. Vérifiez que cet appareil est sur le réseau du centre, puis réessayez.",
    insecure: "Cette connexion n'est pas chiffrée : tout le monde sur ce réseau peut lire le jeton et vos questions.",
  },
  es: {
    lead: "Este servidor es de su centro de salud. Escriba su clave de acceso: la tiene quien se ocupa del servidor.",
    label: "Clave de acceso",
    show: "Mostrar lo que escribo",
    enter: "Entrar",
    lasts: "La sesión dura 12 horas en este dispositivo.",
    wrong: "Esta no es la clave de acceso de este servidor. Letras minúsculas y cifras, con los guiones.",
    wait: (seconds) => `Llegaron demasiadas claves erróneas desde esta dirección. Vuelva a intentarlo en ${seconds} segundos.`,
    gone: "El servidor no respondió. Compruebe que este dispositivo está en la red del centro y vuelva a intentarlo.",
    insecure: "Esta conexión no está cifrada: cualquiera en esta red puede leer la clave y lo que usted pregunta.",
  },
  sw: {
    lead: "Seva hii ni ya kituo chako cha afya. Weka msimbo wake wa kuingia: anayeendesha seva anao.",
    label: "Msimbo wa kuingia",
    show: "Onyesha ninachoandika",
    enter: "Ingia",
    lasts: "Utabaki umeingia kwenye kifaa hiki kwa saa 12.",
    wrong: "Huu si msimbo wa kuingia wa seva hii. Herufi ndogo na tarakimu, pamoja na vistari.",
    wait: (seconds) => `Misimbo mingi isiyo sahihi imetoka kwenye anwani hii. Jaribu tena baada ya sekunde ${seconds}.`,
    gone: "Seva haikujibu. Hakikisha kifaa hiki kiko kwenye mtandao wa kituo, kisha jaribu tena.",
    insecure: "Muunganisho huu haujasimbwa: kila mtu kwenye mtandao huu anaweza kusoma msimbo na maswali yako.",
  },
};

const LOOPBACK = ["localhost", "127.0.0.1", "[::1]"];

const byId = (id) => document.getElementById(id);
const kept = localStorage.getItem("edgemed.language"); // chosen on the page itself
const language = [kept ?? "", ...navigator.languages].map((each) => each.slice(0, 2)).find((each) => each in WORDS) ?? "en";
const words = WORDS[language];

function show(id, text) {
  byId(id).textContent = text;
  byId(id).hidden = !text;
}

function enterPage() {
  window.location.replace("/");
}

// A page opened by a link from elsewhere comes without its cookie, which is kept from other sites: it may be here.
async function enterIfSignedIn() {
  const reply = await fetch("/api/status").catch(() => null);
  if (reply?.ok) enterPage();
}

async function signIn(event) {
  event.preventDefault();
  byId("enter").disabled = true;
  show("problem", "");
  const problem = await problemOf(byId("token").value.trim());
  if (!problem) {
    enterPage();
    return;
  }
  byId("enter").disabled = false;
  show("problem", problem);
  byId("token").focus();
}

// What went wrong, in words; "" when the server let us in.
async function problemOf(token) {
  let reply;
  try {
    reply = await fetch("/api/login", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ token }),
    });
  } catch {
    return words.gone;
  }
  if (reply.ok) return "";
  if (reply.status === 429) return words.wait(reply.headers.get("Retry-After") ?? "60");
  return reply.status < 500 ? words.wrong : words.gone;
}

document.documentElement.lang = language;
for (const [id, text] of [["lead", words.lead], ["label", words.label], ["show-label", words.show],
  ["enter", words.enter], ["lasts", words.lasts]]) byId(id).textContent = text;
if (window.location.protocol === "http:" && !LOOPBACK.includes(window.location.hostname)) show("insecure", words.insecure);
byId("form").addEventListener("submit", signIn);
byId("enter").disabled = false;
byId("show").addEventListener("change", (event) => { byId("token").type = event.target.checked ? "text" : "password"; });
byId("token").focus();
enterIfSignedIn();
